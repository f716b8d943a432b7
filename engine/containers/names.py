"""Names for containers that were given none."""

from __future__ import annotations

import random

__all__ = ["random_name"]

_HOW = """
able amber bold brave bright brisk calm clear clever crisp eager fair fast fine firm fond frank free
fresh gentle glad grand happy hardy keen kind lively loyal lucky merry mild neat nimble noble
patient plucky polite proud quick quiet ready robust sharp shiny smart solid sound spry steady
strong sturdy sunny swift tidy trim trusty upright vivid warm wise witty zesty
""".split()  # noqa: SIM905  # two words a line would be 140 lines
_WHAT = """
anchor barge beacon bollard bosun bow bridge brig buoy cabin capstan captain cargo clipper compass
coracle crane crate crew cutter deck derrick dinghy dock dory ferry fleet galley gangway harbour
hatch hawser helm hold hull jetty keel ketch ledger lighter locker lugger manifest mast mate mooring
pallet pier pilot port prow purser quay rigging rudder sail schooner sextant shanty sloop spar stern
tender tiller trawler tug wharf winch yawl
""".split()  # noqa: SIM905  # two words a line would be 140 lines


def random_name(draw: random.Random) -> str:
    """A name such as ``brisk_anchor`` (some 4,000 of them); the caller tries again if it is taken."""
    return f"{draw.choice(_HOW)}_{draw.choice(_WHAT)}"
