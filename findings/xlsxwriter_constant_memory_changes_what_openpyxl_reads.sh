#!/usr/bin/env bash
# XlsxWriter 3.3.1 with openpyxl 3.1.5 and python-calamine 0.9.1, seen 2026-11-28.
# `constant_memory` is documented as a matter of memory and of the order of writing. It also moves texts
# from the workbook's table of shared strings into the cells, and readers differ there: a text that
# looks like the format's own escape (a campaign named promo_x0041_1) is escaped by XlsxWriter in both
# places, and openpyxl undoes that in the shared table alone. Read with openpyxl, and so with pandas by
# default, the campaign has another name; LibreOffice and calamine read what was written.
# What holds: compare cells of such a workbook with a reader that undoes the escape in both places.
# Seen:
#   shared strings: openpyxl promo_x0041_1, calamine promo_x0041_1
#   constant_memory: openpyxl promo_x005F_x0041_1, calamine promo_x0041_1
PACKAGES='xlsxwriter==3.3.1 openpyxl==3.1.5 python-calamine==0.9.1'
. "$(dirname "$0")/_venv.sh"
cd "$WORK"
"$VENV_PYTHON" - <<'PROGRAM'
import openpyxl
import xlsxwriter
from python_calamine import CalamineWorkbook

seen = []
for name, options in (("shared strings", {}), ("constant_memory", {"constant_memory": True})):
    with xlsxwriter.Workbook("texts.xlsx", options) as book:
        book.add_worksheet().write_string(0, 0, "promo_x0041_1")
    by_openpyxl = openpyxl.load_workbook("texts.xlsx").active["A1"].value
    by_calamine = CalamineWorkbook.from_path("texts.xlsx").get_sheet_by_index(0).to_python()[0][0]
    seen.append(f"{name}: openpyxl {by_openpyxl}, calamine {by_calamine}")
print("\n".join(seen))
assert seen == [
    "shared strings: openpyxl promo_x0041_1, calamine promo_x0041_1",
    "constant_memory: openpyxl promo_x005F_x0041_1, calamine promo_x0041_1",
], "CHANGED"
PROGRAM
