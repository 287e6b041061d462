"""The report behind ``python -m anprompt report``: one HTML file that needs nothing else.

- ``data``: what is in the runs' folders, every number with the file and key it comes from;
- ``charts``: drawing: matplotlib figures as SVG that follows the page's colours, as PNG, as CSV;
- ``figures``: the report's figures;
- ``html``: tables whose cells carry their sources;
- ``sections`` and ``page``: the text around them;
- ``style.css``: light and dark, screen, phone and paper.
"""
