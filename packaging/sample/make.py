"""Makes documents.zip, the documents that the quickstart reads where it is given none.

    python make.py PATH/TO/contracts.jsonl.gz          (see README.md for its source and licence)

Needs Python 3.9 and matplotlib 3 (for the one PDF). The choice of texts, their order and every byte of the
archive follow from the input: running it again gives the same file, but for the PDF's fonts.
"""

import csv, gzip, html, io, json, re, sys, textwrap, zipfile

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

LICENCES, SHORTER = 70, 130  # how many of each kind


def tidy(text):
    """Drops the marks of the SEC's form (<PAGE>, page numbers) and the white space around them."""
    text = re.sub(r"(?m)^\s*</?(PAGE|TABLE|CAPTION|S|C|FN|TEXT|TYPE|SEQUENCE|FILENAME|DESCRIPTION)>.*$", "", text)
    text = re.sub(r"(?m)^\s*-?\s*(Page )?\d{1,3}\s*-?\s*$", "", text)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def usable(text):
    letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in text)
    return letters > 0.85 * len(text.replace("\n", "")) and text.count("....") < 20


def choose(rows, category, least, most, count):
    seen, chosen = set(), []
    for row in sorted((r for r in rows if r["category"] == category), key=lambda r: r["id"]):
        text = tidy(row["text"])
        key = re.sub(r"\W", "", text)[:300].lower()
        if least <= len(text) <= most and usable(text) and key not in seen:
            seen.add(key)
            chosen.append((row["title"].strip(), row["date"], text))
    step = max(1, len(chosen) // count)
    return chosen[::step][:count]


def name(title, date, number, extension):
    short = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:48].strip("-")
    return f"{number:03}-{short}-{date[:4]}.{extension}"


def paragraphs(text):
    return [p.strip() for p in text.split("\n\n") if p.strip()]


def as_markdown(title, text):
    return f"# {title.title()}\n\n" + text.replace("<", "\\<").replace("*", "\\*").replace("_", "\\_")


def as_html(title, text):
    body = "\n".join(f"<p>{html.escape(p)}</p>" for p in paragraphs(text))
    return (
        f"<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{html.escape(title.title())}</title>"
        "<style>body { max-width: 40em }</style></head>\n"
        "<body><nav><a href=\"/\">Home</a> <a href=\"/contracts\">All contracts</a></nav>\n"
        f"<main><h1>{html.escape(title.title())}</h1>\n{body}\n</main>\n<footer>Back to top</footer></body></html>\n"
    )


def as_docx(title, text):
    def paragraph(words, style=""):
        lines = "<w:br/>".join(f'<w:t xml:space="preserve">{html.escape(l.strip(), quote=False)}</w:t>' for l in words.split("\n"))
        return f"<w:p>{style}<w:r>{lines}</w:r></w:p>"

    heading = paragraph(title.title(), '<w:pPr><w:pStyle w:val="Title"/></w:pPr>')
    document = (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
        '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
        + heading + "".join(map(paragraph, paragraphs(text))) + "</w:body></w:document>"
    )
    kinds = (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/>'
        "</Types>"
    )
    relations = (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/>'
        "</Relationships>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for part, content in (("[Content_Types].xml", kinds), ("_rels/.rels", relations), ("word/document.xml", document)):
            package.writestr(zipfile.ZipInfo(part), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def as_pdf(title, text):
    matplotlib.rcParams["pdf.fonttype"] = 42
    lines = [line for p in [title.title()] + paragraphs(text) for line in textwrap.wrap(" ".join(p.split()), 88) + [""]]
    out = io.BytesIO()
    with PdfPages(out, metadata={"CreationDate": None, "Creator": None, "Producer": None}) as pages:
        for start in range(0, len(lines), 54):
            page = Figure(figsize=(8.27, 11.69))
            page.text(0.1, 0.95, "\n".join(lines[start : start + 54]), va="top", fontsize=10, family="serif", linespacing=1.3, parse_math=False)
            pages.savefig(page)
    return out.getvalue()


def as_csv(rows):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["title", "date", "text"])
    writer.writerows((title.title(), date, text) for title, date, text in rows)
    return out.getvalue()


def as_jsonl(rows):
    return "".join(json.dumps({"title": title.title(), "date": date, "text": text}) + "\n" for title, date, text in rows)


def main():
    rows = [json.loads(line) for line in gzip.open(sys.argv[1])]
    licences = choose(rows, "software_license", 5_000, 45_000, LICENCES)
    shorter = choose(rows, "employment", 2_000, 14_000, SHORTER)
    files = {}
    for number, (title, date, text) in enumerate(licences, 1):
        if number % 20 == 5:
            files["licences/" + name(title, date, number, "html")] = as_html(title, text)
        elif number % 20 == 10:
            files["licences/" + name(title, date, number, "md")] = as_markdown(title, text)
        elif number == 15:
            files["licences/" + name(title, date, number, "pdf")] = as_pdf(title, text)
        elif number == 16:
            files["licences/" + name(title, date, number, "docx")] = as_docx(title, text)
        else:
            files["licences/" + name(title, date, number, "txt")] = text
    for number, (title, date, text) in enumerate(shorter[:70], 1):
        files["employment/" + name(title, date, number, "txt")] = text
    files["employment/agreements.csv"] = as_csv(shorter[70:100])
    files["employment/amendments.jsonl"] = as_jsonl(shorter[100:])
    # So that a first run also meets a document that cannot be taken.
    files["licences/999-damaged-on-purpose.pdf"] = "This file ends in .pdf, and is none: the quickstart shows how it is refused.\n"
    with zipfile.ZipFile("documents.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(files):
            content = files[path]
            archive.writestr(zipfile.ZipInfo(path), content if isinstance(content, bytes) else content.encode(), zipfile.ZIP_DEFLATED)
    texts = licences + shorter
    print(len(files), "files,", len(texts), "documents,", sum(len(t[2]) for t in texts), "bytes of text")


if __name__ == "__main__":
    main()
