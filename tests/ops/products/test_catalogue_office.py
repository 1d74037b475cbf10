"""An exported sheet in the real LibreOffice, edited and saved: only the edit is imported."""

import functools
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dev import tools
from ops.products import diff, reader, sheet
from tests.ops.products.test_catalogue_files import catalogue_of

NASTY_PRODUCTS: list[dict[str, Any]] = [
    {
        "slug": "formulas", "name": "=1+1", "summary_id": "  leading", "summary_en": "a\nb\ttab",
        "benefits_id": ["a|b", "=2", " c ", "d\\"], "image_alt_id": "007", "image_alt_en": "5-10",
        "image_caption_id": "TRUE", "image_caption_en": "'quoted",
    },
    {
        "slug": "signs", "name": "Crème “é”", "summary_id": "a;b,c", "summary_en": "+62 812",
        "benefits_id": ["-1"], "image_alt_id": "12 May", "image_alt_en": "1.000,5",
        "image_caption_id": "'=x", "image_caption_en": "(5)", "how_to_use_id": "\ttab",
        "how_to_use_en": "\n=1", "published": True,
    },
    {
        "slug": "numbers", "name": "3 Minute Mask", "summary_id": "50%", "summary_en": "1e5",
        "image_alt_id": "2025-01-01", "image_alt_en": "10:30", "image_caption_id": "5 Mei",
        "image_caption_en": "Rp 5.000", "how_to_use_id": "x\r\ny", "how_to_use_en": "trailing  ",
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
    },
    {"slug": "letters", "name": "Oil → ✓", "summary_en": "@x", "brand": "Oxi'd'O; Café"},
]  # fmt: skip
# What a person chooses in "Save as CSV": separator, quotation mark, character set.
SAVED_AS = {
    "commas, UTF-8": "44,34,76,1,,0,false,true,false",
    "semicolons, UTF-8": "59,34,76,1,,0,false,true,false",
    "semicolons, Windows-1252": "59,34,1,1,,0,false,true,false",
    "tabs, UTF-16": "9,34,65535,1,,0,false,true,false",
    "commas, every text quoted": "44,34,76,1,,0,true,true,false",
}


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> "functools.partial[Path]":
    """Converts a file: office(file, to, extension, *options)."""
    profile = tmp_path_factory.mktemp("profile")
    return functools.partial(_convert, tools.ensure_office(), profile)


def _convert(office: Path, profile: Path, file: Path, to: str, *options: str) -> Path:
    folder = profile.parent / f"saved {len(list(profile.parent.iterdir()))}"
    subprocess.run(
        [str(office), "--headless", f"-env:UserInstallation={profile.as_uri()}", *options,
         "--convert-to", to, "--outdir", str(folder), str(file)],
        check=True, capture_output=True, timeout=300,
        env={"PATH": os.environ["PATH"], "HOME": str(profile), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    return folder / f"{file.stem}.{to.partition(':')[0]}"


@pytest.mark.parametrize("excel", [False, True])
def test_only_the_edit_of_a_sheet_changes_anything(
    office: "functools.partial[Path]", tmp_path: Path, excel: bool
) -> None:
    stored = catalogue_of(*NASTY_PRODUCTS)
    exported = tmp_path / "products.csv"
    exported.write_bytes(sheet.write(stored.products, excel=excel).encode())
    separator = "59" if excel else "44"
    opened = office(exported, "fods", f"--infilter=CSV:{separator},34,76,1")
    text = opened.read_text("utf-8")
    assert text.count("3 Minute Mask") == 1
    edited = tmp_path / "edited.fods"
    edited.write_text(text.replace("3 Minute Mask", "5 Minute Mask"), "utf-8")
    for choice, options in SAVED_AS.items():
        saved = office(edited, f"csv:Text - txt - csv (StarCalc):{options}")
        lines = diff.compare(stored, reader.read(saved.read_bytes())).lines
        assert lines == [
            "~ numbers  5 Minute Mask",
            "    name: '3 Minute Mask' -> '5 Minute Mask'",
        ], choice
