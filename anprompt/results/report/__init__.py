"""The report behind ``python -m anprompt report``: one HTML file that needs nothing else.

- ``data``: the runs below some folders, their tables and evaluations;
- ``explorer``: the first screen, any measure as a table to sort, filter and copy;
- ``accuracy``, ``noise``, ``details``: the sections below, made of ``blocks``;
- ``answers`` and ``pictures``: answers to single images, from the predictions that runs kept;
- ``figures``, ``curves`` and ``charts``: figures as SVG that follows the page's colours, as files;
- ``page`` and ``templates``: the blocks as HTML, every text escaped, and data as JSON for scripts.
"""
