"""Balancers in service configs: the first known one counts."""

from typing import Any

import pytest
from tests.core.service_config.configs import ARRAY, FLAG, OBJECT, TEXT, WHOLE, refusal

from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.pick_first import PickFirst
from meshlib._core.balancing.random import Random
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.service_config import parse


@pytest.mark.parametrize(
    ("entries", "balancer"),
    [
        ([{"round_robin": {}}], RoundRobin()),
        ([{"pick_first": {}}], PickFirst()),
        ([{"pick_first": {"shuffleAddressList": False}}], PickFirst()),
        ([{"random": {}}], Random()),
        ([{"least_request": {}}], LeastRequest()),
        ([{"least_request_experimental": {}}], LeastRequest(choice_count=2)),
        ([{"least_request_experimental": {"choiceCount": 10}}], LeastRequest(choice_count=10)),
        ([{"least_request_experimental": {"choiceCount": 11}}], LeastRequest(choice_count=10)),
        ([{"least_request": {"choiceCount": 4294967296}}], LeastRequest(choice_count=10)),
        ([{"weighted_round_robin": {"blackoutPeriod": "1s"}}, {"round_robin": {}}, {"pick_first": {}}], RoundRobin()),
        ([{"xds_cluster_manager_experimental": 5}, {"random": {}}, {"round_robin": {"weights": 1}}], Random()),
    ],
)
def test_the_first_balancer_that_is_known(entries: Any, balancer: object) -> None:
    """gRFC A24; the settings of the others are ignored."""
    assert parse({"loadBalancingConfig": entries}).balancer == balancer


KNOWN = "known: least_request, least_request_experimental, pick_first, random, round_robin"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], f"=[]: names no balancer of meshlib; {KNOWN}"),
        ([{"rls": {}}], f"=[{{'rls': {{}}}}]: names no balancer of meshlib; {KNOWN}"),
        ({"round_robin": {}}, f"={{'round_robin': {{}}}}: {ARRAY}"),
        (["round_robin"], f"[0]='round_robin': {OBJECT}"),
        ([{}], "[0]={}: must have exactly one field"),
        ([{"random": {}}, {"rls": {}, "grpclb": {}}], "[1]={'grpclb': {}, 'rls': {}}: must have exactly one field"),
        ([{"round_robin": None}], f"[0].round_robin=None: {OBJECT}"),
        ([{"round_robin": {"weights": 1}}], "[0].round_robin.weights=1: unknown field; known: none"),
        (
            [{"round_robin": {"choiceCount": 3}}],
            (
                "[0].round_robin.choiceCount=3: unknown field; known: none; "
                "it belongs in loadBalancingConfig[].least_request"
            ),
        ),
        ([{"least_request": {"choiceCount": 1}}], f"[0].least_request.choiceCount=1: {WHOLE} from 2 to 4294967295"),
        ([{"least_request": {"choiceCount": "x"}}], f"[0].least_request.choiceCount='x': {WHOLE}"),
        ([{"pick_first": {"shuffleAddressList": 1}}], f"[0].pick_first.shuffleAddressList=1: {FLAG}"),
        (
            [{"pick_first": {"shuffleAddressList": True}}],
            (
                "[0].pick_first.shuffleAddressList=True: is not supported by meshlib, whose pick_first keeps to the "
                "resolver's order"
            ),
        ),
    ],
)
def test_balancers_that_are_none(given: Any, said: str) -> None:
    """No known balancer, or a known one with unknown settings."""
    assert refusal({"loadBalancingConfig": given}) == f"loadBalancingConfig{said}"


def test_the_deprecated_name() -> None:
    """In any letter case, and only without the list."""
    assert parse({"loadBalancingPolicy": "ROUND_ROBIN"}).balancer == RoundRobin()
    assert parse({"loadBalancingPolicy": "pick_first"}).balancer == PickFirst()
    assert parse({"loadBalancingPolicy": "grpclb", "loadBalancingConfig": [{"random": {}}]}).balancer == Random()
    assert refusal({"loadBalancingPolicy": "round-robin"}) == (
        f"loadBalancingPolicy='round-robin': unknown name; {KNOWN}; did you mean 'round_robin'?"
    )
    assert refusal({"loadBalancingPolicy": 1}) == f"loadBalancingPolicy=1: {TEXT}"
