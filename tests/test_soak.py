"""A slice of the fault campaign (``make soak`` runs all of it): whatever goes wrong, what must hold holds."""

import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent / "soak"
sys.path.insert(0, str(SOAK))  # worker processes import it, too

import campaign  # noqa: E402

N_RUNS = 30


@pytest.mark.slow
def test_a_slice_of_the_campaign() -> None:
    campaign.warm_up()
    leftovers = campaign.Leftovers()
    for seed in range(N_RUNS):
        try:
            campaign.run(seed)
            leftovers.check(max_megabytes=100)
        except BaseException as error:
            error.add_note(f"seed {seed}: {campaign.Plan.of(seed)}")
            raise
