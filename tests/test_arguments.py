from __future__ import annotations

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nextlens.models.arguments import at_least, between, one_of

DAYS = ("monday", "tuesday", "friday")
MANY = [f"blocks.{i}.hook_resid_post" for i in range(20)]
numbers = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("choices", [DAYS, list(DAYS), dict.fromkeys(DAYS), set(DAYS)])
def test_a_choice_comes_back_as_it_was(choices):
    assert one_of("day", "friday", choices) == "friday"


def test_a_value_that_is_no_choice_is_refused_with_all_choices_and_the_nearest():
    with pytest.raises(
        ValueError, match=re.escape("day='fridy' is not one of 'monday', 'tuesday', 'friday'; did")
    ) as e:
        one_of("day", "fridy", DAYS)
    assert str(e.value).endswith("did you mean 'friday'?")


def test_nothing_is_offered_where_nothing_is_near():
    with pytest.raises(ValueError, match=r"^day=7 is not one of 'monday', 'tuesday', 'friday'$"):
        one_of("day", 7, DAYS)


def test_of_many_choices_the_nearest_three_are_named_and_where_the_rest_is():
    with pytest.raises(ValueError, match=r"site=.* is not one of 20 choices \(all are in model\.sites\)") as e:
        one_of("site", "blocks.7.resid_post", MANY, whole_list="model.sites")
    offered = re.findall(r"'(blocks\.\d+\.hook_resid_post)'", str(e.value))
    assert len(offered) == 3
    assert offered[0] == "blocks.7.hook_resid_post"


@given(numbers, numbers)
def test_at_least_returns_its_value_or_refuses_it(value, minimum):
    if value >= minimum:
        assert at_least("width", value, minimum) == value
    else:
        with pytest.raises(ValueError, match=re.escape(f"width={value!r} must be at least {minimum}")):
            at_least("width", value, minimum)


@given(numbers, numbers, numbers)
def test_between_returns_its_value_or_refuses_it(value, low, high):
    assume(low <= high)
    if low <= value <= high:
        assert between("alpha", value, low, high) == value
    else:
        with pytest.raises(ValueError, match=re.escape(f"alpha={value!r} must lie between {low} and {high}")):
            between("alpha", value, low, high)


def test_what_is_not_a_number_lies_nowhere():
    with pytest.raises(ValueError, match="width=nan must be at least 0"):
        at_least("width", math.nan, 0)
    with pytest.raises(ValueError, match="alpha=nan must lie between 0 and 1"):
        between("alpha", math.nan, 0, 1)
