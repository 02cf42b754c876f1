"""Dates as people write them, and as ISO 8601 has them: the pairs that the translator learns and is judged on."""

from __future__ import annotations

import calendar
import datetime
import random

MONTHS = list(calendar.month_name)[1:]
WEEKDAYS = list(calendar.day_name)
BEGIN, END = "<", ">"
"""What a written date is begun and ended with."""
CHARACTERS = "".join(sorted({*"0123456789-/., <>", *"".join(MONTHS + WEEKDAYS).lower(), *"the of st nd rd th"}))
FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
LONGEST = 34
"""Characters of a spelled date at most."""


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th …"""
    ending = "th" if day % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def spelled(date: datetime.date, chance: random.Random) -> str:
    """One of the ways in which a person may write a date; the day stands before a month in digits."""
    month = chance.choice([MONTHS[date.month - 1], MONTHS[date.month - 1][:3]]).lower()
    day = chance.choice([str(date.day), ordinal(date.day)])
    weekday = chance.choice(
        ["", "", f"{WEEKDAYS[date.weekday()].lower()}, ", f"{WEEKDAYS[date.weekday()][:3].lower()} "]
    )
    year = f"{date.year}"
    form = chance.randrange(6)
    if form == 0:
        return f"{weekday}{day} {month} {year}"
    if form == 1:
        return f"{weekday}{month} {day}, {year}"
    if form == 2:
        return f"the {ordinal(date.day)} of {month} {year}"
    if form == 3:
        return f"{date.day}.{date.month}.{year}"
    if form == 4:
        return f"{date.day:02}/{date.month:02}/{year}"
    return f"{weekday}{day} {month}, {year}"


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """(spelled, ISO 8601) of random days. Days whose number since the first is a multiple of 10 belong to odd seeds,
    all others to even ones: what is judged on was never learned in any spelling."""
    chance, days = random.Random(seed), (LAST - FIRST).days + 1
    found = []
    while len(found) < count:
        day = chance.randrange(days)
        if (day % 10 == 0) == (seed % 2 == 1):
            date = FIRST + datetime.timedelta(day)
            found.append((spelled(date, chance), date.isoformat()))
    return found
