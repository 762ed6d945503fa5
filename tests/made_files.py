"""Small files of many formats, made here."""

import io
import zipfile

CHAPTERS = {
    "Loomings": "Call me Ishmael. Some years ago I thought I would sail about a little.",
    "The Carpet-Bag": "I stuffed a shirt or two into my old carpet-bag, and started for Cape Horn.",
    "The Spouter-Inn": "Entering that gable-ended inn, you found yourself in a wide, low entry.",
}


PAGES = tuple(CHAPTERS.values())


def pdf(pages=PAGES, password=None):
    from fpdf import FPDF

    made = FPDF()
    made.set_font("helvetica", size=12)
    for text in pages:
        made.add_page()
        if text:
            made.multi_cell(0, 6, text)
        else:
            made.rect(10, 10, 50, 50)
    if password is not None:
        made.set_encryption(owner_password="owner", user_password=password)
    return bytes(made.output())


def epub(chapters=CHAPTERS, drm=False, extra=()):
    container = (
        '<?xml version="1.0"?>'
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">'
        '<rootfiles><rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/>'
        "</rootfiles></container>"
    )
    items = "".join(
        f'<item id="c{n}" href="text/chapter%20{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata/>'
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("mimetype", "application/epub+zip")
        file.writestr("META-INF/container.xml", container)
        file.writestr("OEBPS/content.opf", package)
        for number, (title, text) in enumerate(chapters.items()):
            page = (
                f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head>'
                f"<body><h1>{title}</h1><p>{text}</p></body></html>"
            )
            file.writestr(f"OEBPS/text/chapter {number}.xhtml", page, zipfile.ZIP_DEFLATED)
        if drm:
            file.writestr(
                "META-INF/encryption.xml",
                '<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptedData><enc:CipherData>'
                '<enc:CipherReference URI="OEBPS/text/chapter%200.xhtml"/></enc:CipherData>'
                "</enc:EncryptedData></encryption>",
            )
        for name, data in extra:
            file.writestr(name, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def docx(chapters=CHAPTERS):
    from docx import Document

    made = Document()
    for title, text in chapters.items():
        made.add_heading(title, level=1)
        made.add_paragraph(text)
    table = made.add_table(rows=2, cols=3)
    for row in range(2):
        for column in range(3):
            table.cell(row, column).text = f"cell {row}{column}"
    table.cell(1, 0).merge(table.cell(1, 1))
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def html(chapters=CHAPTERS):
    body = "".join(f"<h2>{title}</h2>\n<p>{text}</p>" for title, text in chapters.items())
    return (
        "<!DOCTYPE html><html><head><title>Whales</title><style>p {color: red}</style></head>"
        f"<body><!-- a comment --><script>alert('no')</script>{body}"
        "<ul><li>one</li><li>two <b>bold</b>, <i>and</i> more</li></ul><pre>  kept\n   as it is</pre>"
        "</body></html>"
    ).encode()


def markdown(chapters=CHAPTERS):
    text = "".join(f"## {title} ##\n\n{words}\n\n" for title, words in chapters.items())
    return (f"Before.\n\n{text}```\n# no heading\n```\n\n# Last\nThe end.\n").encode()
