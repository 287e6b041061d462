"""The report behind ``python -m anprompt report``: one HTML file that needs nothing else.

- ``data``: the runs below some folders, their tables and evaluations;
- ``figures`` and ``charts``: figures as SVG that follows the page's colours, as PNG, as CSV;
- ``accuracy``, ``noise``, ``details``: the sections, made of ``blocks``;
- ``page`` and ``templates``: the blocks as HTML, every text escaped.
"""
