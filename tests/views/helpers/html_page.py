"""A page as a reader has it: elements, references and text."""

import html.parser

HOSTILE = "<script>alert('$x$')</script>\x1b[31m\u202e&amp;\"'"
VOID = {"meta", "br", "hr", "img", "link"}


class Page(html.parser.HTMLParser):
    """Elements, their attributes and the text of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def values(self, *names):
        return [v for _, attrs in self.elements for k, v in attrs.items() if k in names]

    @property
    def tags(self):
        return {tag for tag, _ in self.elements}
