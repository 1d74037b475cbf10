"""Catalogue files as people save them: what is read, what is refused, and round trips."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.products import diff, reader, sheet, writer
from ops.products.catalogue import COLUMNS, Catalogue
from ops.products.model import InvalidCatalogue

BRANDS = ("Gamma+", "Oxi'd'O; Café", " Kemon ", "=1+1")
CODES = ("shampoo", "shine", "007")

STORED: dict[str, Any] = dict.fromkeys(COLUMNS) | {
    "slug": "barber-oil", "name": "Barber Oil", "brand": "Gamma+", "audience": ["SALON"],
    "categories": ["shampoo"], "functions": ["shine"], "summary_id": "Minyak.",
    "summary_en": "Oil.", "benefits_id": ["Lembut", "Bersih"], "benefits_en": None,
    "published": False, "created_at": datetime(2025, 3, 15, 1, 2, 3, 456, tzinfo=UTC),
}  # fmt: skip


def catalogue_of(*products: dict[str, Any]) -> Catalogue:
    labels = [{"code": code, "label_id": code, "label_en": code, "position": 0} for code in CODES]
    return Catalogue(
        brands=[{"name": name, "position": 0} for name in BRANDS],
        categories=labels,
        functions=labels,
        synonyms=[{"term": "|", "same_as": "'"}],
        products=[STORED | product for product in products],
    )


def changes(data: bytes, before: Catalogue | None = None) -> list[str]:
    """The lines of the difference."""
    before = catalogue_of({}) if before is None else before
    return diff.compare(before, reader.read(data)).lines


def faults(data: bytes, before: Catalogue | None = None) -> list[str]:
    with pytest.raises(InvalidCatalogue) as invalid:
        changes(data, before)
    return invalid.value.errors


RENAMED = ["~ barber-oil  Crème é", "    name: 'Barber Oil' -> 'Crème é'"]
TABLE = "slug;name;image_alt_en\r\nbarber-oil;Crème é;\r\n"


@pytest.mark.parametrize("delimiter", [";", ",", "\t"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be"]
)
def test_what_spreadsheets_write_is_recognised(delimiter: str, encoding: str) -> None:
    data = TABLE.replace(";", delimiter).encode(encoding)
    assert changes(data) == RENAMED
    name = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8 with BOM", "cp1252": "Windows-1252"}
    described = f"CSV in {name.get(encoding, 'UTF-16')}, cells separated by "
    assert reader.read(data).description == described + sheet.DELIMITERS[delimiter]


def test_decimal_commas_do_not_look_like_separators() -> None:
    text = "slug;name;summary_id\r\nbarber-oil;Barber Oil 1,5 l;0,5, 1,5, 2,5 dan 3,5 liter\r\n"
    assert changes(text.encode()) == [
        "~ barber-oil  Barber Oil 1,5 l",
        "    name: 'Barber Oil' -> 'Barber Oil 1,5 l'",
        "    summary_id: 'Minyak.' -> '0,5, 1,5, 2,5 dan 3,5 liter'",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\r\n;;\r\n Slug ;NAME;Image Alt EN;;\r\n;;;;\r\nbarber-oil;Crème é;;;\r\n\r\n",
        "sep=;\r\n" + TABLE,
        "SLUG,Name\nbarber-oil,Crème é\n",
        '"slug";"name"\n"barber-oil";"Crème é"\n',
        "slug\tname\nbarber-oil\tCrème é",
        "slug;name\rbarber-oil;Crème é\r",
    ],
)
def test_padding_case_blank_rows_and_empty_columns_mean_nothing(text: str) -> None:
    assert changes(text.encode()) == RENAMED


def test_exported_json_saved_in_another_encoding_is_json() -> None:
    text = writer.to_json(catalogue_of({}))
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
        assert changes(text.encode(encoding)) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TABLE.encode("mac_roman"), "more likely: Macintosh Roman"),
        ("slug;name;summary_en\nx;Crème;50 °C à la carte".encode("cp850"), "DOS (code page 850)"),
        (b"PK\x03\x04abc", "this is a workbook (xlsx or ods), not a text: save it as CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel workbook"),
        (b"%PDF-1.7", "a PDF"),
        (bytes(range(256)), "this is no text"),
        (TABLE.encode("utf-16")[:-1], "cut off"),
        (b"slug;name,brand\nx;y,z\n", "row 1: the header has commas and semicolons"),
        (b'slug;name\n"x;y\n', "quotation mark"),
        (b'slug,name\n"x"y,z\n', "row 2"),
        (b"name,brand\nx,y\n", "column 'slug' is missing"),
        (b"slug,Name, name \nx,y,z\n", "row 1: column 'name' is there twice"),
        (b"slug,naem,cost\nx,y,z\n", "row 1: column 'naem' is not known (perhaps 'name')"),
        (
            b"slug,name\nbarber-oil,y,z\n",
            "row 2: barber-oil: 'z' stands in a column without a name",
        ),
        (b"slug,,name\nbarber-oil,x,y\n", "'x' stands in a column without a name"),
        (b"slug,name,summary_id\nbarber-oil,x\n", "summary_id: the row ends before it"),
        (b"slug,published\nbarber-oil,perhaps\n", "published: true or false; not 'perhaps'"),
        (b"slug,created_at\nbarber-oil,28/11/2026 9:00\n", "created_at: a day such as"),
        (b"slug,created_at\nbarber-oil,2026-11-28T09:00\n", "created_at: a day such as"),
        (b"slug,name\nbarber-oil,\n", "name: empty or missing; wanted: 1 to 160 characters"),
        (b"slug,summary_id,summary_en\nbarber-oil,,\n", "summary: in one language at least"),
        (b"slug,categories\nbarber-oil,shampoo|shampoo\n", "none twice"),
        (b"slug,name\n,x\n", "row 2: slug: empty or missing"),
        (b"{", "line 1: this is no JSON"),
        (b'{"products": 1}', "products: a list is wanted"),
        (b'{"products": [1]}', "line 1: a product is an object"),
        (b'[{"slug": "barber-oil", "name": 5}]', "name: 1 to 160 characters; not 5"),
        (b'[{"slug": "barber-oil", "name": "a", "name": "b"}]', "'name' is there twice"),
        (b'[{"slug": "barber-oil", "name": "\\u0000"}]', "characters that cannot be stored"),
        (b'[{"slug": "barber-oil", "image": {"src": 1}}]', "'image.src' is not known"),
        (b'{"brands": [{"name": ""}]}', "brands, number 1: name"),
        (b'{"functions": [{"code": "new"}]}', "functions: 'new': label: a text for id and en"),
    ],
)
def test_what_cannot_be_read_for_certain_is_refused_in_words(data: bytes, words: str) -> None:
    assert words in "\n".join(faults(data))


def test_every_fault_is_told_at_once_with_row_product_and_field() -> None:
    table = (
        "slug,name,brand,published,image_url\n"
        "barber-oil,,Nobody,perhaps,ftp://x\n"
        "\n"
        "Bad Slug,x,Gamma+,true,\n"
    )
    messages = faults(table.encode())
    assert [fault.partition("; ")[0] for fault in messages] == [
        "row 2: barber-oil: name: empty or missing",
        "row 2: barber-oil: brand: 'Nobody' is not known",
        "row 2: barber-oil: image_url: an https address, or a path of this site",
        "row 2: barber-oil: published: true or false",
        "row 4: Bad Slug: slug: a-z, 0-9 and single hyphens, at most 100",
        "row 4: Bad Slug: audience: empty or missing",
        "row 4: Bad Slug: categories: empty or missing",
        "row 4: Bad Slug: summary: in one language at least",
    ]


def test_an_empty_cell_empties_but_never_publishes() -> None:
    table = "slug,functions,benefits_id,summary_en,published,created_at\nbarber-oil,,,,,\n"
    assert changes(table.encode()) == [
        "~ barber-oil  Barber Oil",
        "    functions: ['shine'] -> []",
        "    summary_en: 'Oil.' -> None",
        "    benefits_id: ['Lembut', 'Bersih'] -> None",
    ]
    assert changes(b'[{"slug": "barber-oil", "published": null, "createdAt": null}]') == []


def test_a_row_that_excel_cut_after_its_last_filled_cell_is_whole() -> None:
    table = "slug;name;image_alt_id;image_alt_en\nbarber-oil;Crème é\n"
    assert changes(table.encode()) == RENAMED


def test_letters_that_an_encoding_lacks_are_not_lost_by_saving_in_it() -> None:
    before = catalogue_of({"summary_en": "Oil → “soft” ✓?"})
    text = sheet.write(before.products, excel=True).replace("Barber Oil", "Crème é")
    assert changes(text.removeprefix("\ufeff").encode("cp1252", "replace"), before) == RENAMED


# ---------------------------------------------------------------- round trips

NASTY = st.one_of(
    st.sampled_from([
        "=1+1", "+62", "-1", "@x", "'", "''", "'=1", "''=1", "'n", "'007", "007", " =1", "\t=1",
        "\n", "\r\n", " ", "  a ", "a|b", "|", "\\", "\\|", "a\\", "\\ ", "1,5", "1/2", "5 Mei",
        "TRUE", "'true", "; x", '"', '""', "a\nb", "a\rb", "1e5", "３", "＝1", "\u00a0", "\ufeff",
        "10%", "sep=;", "x,y;z\tw", "Rp 5.000",
    ]),
    st.text(st.sampled_from("'\\|=+-@ \t\r\n,;\"0a.\u00a0\ufeffé✓"), min_size=1, max_size=8),
    st.text(
        st.characters(codec="utf-8", exclude_characters="\x00"),
        min_size=1,
        max_size=12,
    ),
)  # fmt: skip
TEXT = st.one_of(st.none(), st.just(""), NASTY)
TEXTS = st.one_of(st.none(), st.lists(st.one_of(NASTY, st.just("")), max_size=4))
PRODUCT = st.fixed_dictionaries(
    {"name": NASTY, "brand": st.sampled_from(BRANDS)}
    | {"audience": st.sampled_from([["SALON"], ["BARBER"], ["BARBER", "SALON"]])}
    | {name: st.lists(st.sampled_from(CODES), min_size=1, unique=True) for name in ("categories",)}
    | {"functions": st.lists(st.sampled_from(CODES), unique=True)}
    | {f"benefits_{locale}": TEXTS for locale in ("id", "en")}
    | {"image_url": st.sampled_from([None, "https://x.id/a?b=1&c=2", "/a.jpg"])}
    | {
        f"{name}_{locale}": TEXT
        for name in ("summary", "how_to_use", "image_alt", "image_caption")
        for locale in ("id", "en")
    }
    | {"published": st.booleans(), "created_at": st.datetimes(timezones=st.just(UTC))}
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PRODUCT, min_size=1, max_size=3))
def test_a_round_trip_changes_nothing(products: list[dict[str, Any]]) -> None:
    stored = catalogue_of(*(product | {"slug": f"p-{n}"} for n, product in enumerate(products)))
    for text in (
        writer.to_json(stored),
        sheet.write(stored.products),
        sheet.write(stored.products, excel=True),
    ):
        assert changes(text.encode(), stored) == []
    # Not merely taken for the same: a new catalogue gets the same texts.
    empty = catalogue_of()
    for row in diff.compare(empty, reader.read(sheet.write(stored.products).encode())
                            ).changed_products if _has_summaries(stored) else ():  # fmt: skip
        old = next(old for old in stored.products if old["slug"] == row["slug"])
        for column in ("name", "how_to_use_id", "image_alt_en"):
            assert (row[column] or None) == (old[column] or None)
        for column in ("benefits_id", "benefits_en"):
            assert (row[column] or []) == [item for item in old[column] or [] if item]


def _has_summaries(catalogue: Catalogue) -> bool:
    """Whether a file with these products is free of faults for an empty catalogue."""
    return all(
        row["name"].strip() and (f"{row['summary_id'] or ''}{row['summary_en'] or ''}").strip()
        for row in catalogue.products
    )


@settings(deadline=None)
@given(NASTY)
def test_a_cell_is_its_text_again_and_no_formula(text: str) -> None:
    cell = sheet.to_cell(text)
    assert sheet.from_cell("name", cell) == text
    assert cell.lstrip()[:1] not in sheet.FORMULA_STARTS
    assert cell[0] not in "\t\r\n"
    items = [text, "b", text]
    assert sheet.from_cell("benefits_id", sheet.to_cell(items)) == items


def test_every_cell_of_an_export_is_quoted() -> None:
    for excel, delimiter in ((False, ","), (True, ";")):
        header, row = sheet.write([STORED], excel=excel).removeprefix("\ufeff").splitlines()
        assert header == delimiter.join(f'"{name}"' for name in COLUMNS)
        assert row.startswith(f'"barber-oil"{delimiter}"Barber Oil"{delimiter}"Gamma+"')
    assert sheet.write([STORED], excel=True).startswith("\ufeff")


def test_a_json_file_has_every_key_so_that_an_edit_can_empty_one() -> None:
    [product] = json.loads(writer.to_json(catalogue_of({})))["products"]
    assert product["benefits"] == {"id": ["Lembut", "Bersih"], "en": None}
    assert product["published"] is False
