"""What tests look for in the page."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps table rows, cells and attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.rows, self.images, self.text = [], [], [], {}, [], []
        self.cell = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.links += [attrs[key] for key in ("href", "src", "xlink:href", "action") if key in attrs]
        if tag == "img":
            self.images.append(attrs)
        if "data-run" in attrs:
            self.row = self.rows.setdefault(attrs["data-run"], {})
        if "data-column" in attrs:
            self.cell = self.row[attrs["data-column"]] = {"title": attrs["title"], "text": "", **attrs}

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())
        if tag == "td":
            self.cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self.cell is not None:
            self.cell["text"] += data


def heatmap(source, start):
    """Row title -> (side, strength, text) of its cells, in the first board after a place."""
    table = source[source.index('<table class="heatmap">', source.index(start)) :]
    table = table[: table.index("</table>")]
    title = r'<th scope="row"[^>]*>(?:<span[^>]*></span>)?(.*?)</th>'
    cell = r'<td class="heat (\w+)" style="--strength:([\d.]+)"[^>]*>(?:<span[^>]*>|<button[^>]*>)([^<]+)<'
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1:]
    return {re.sub("<.*?>", "", re.search(title, row).group(1)): re.findall(cell, row) for row in rows}
