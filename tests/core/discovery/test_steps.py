"""The text of a resolution's error."""

from meshlib._core.discovery.steps import ResolveError, Step


def test_an_error_tells_what_was_tried() -> None:
    """Reason first, then every step once, with its count if it was repeated."""
    once = Step(question="SRV _grpc._tcp.svc-a.", source="10.0.0.2:53", answer="NXDOMAIN")
    again = Step(question="A svc-a.", source="10.0.0.2:53", answer="no answer within 1 s")
    assert str(ResolveError("no name server answered", [once, again, again, again])) == (
        "no name server answered (SRV _grpc._tcp.svc-a. from 10.0.0.2:53: NXDOMAIN; "
        "A svc-a. from 10.0.0.2:53: no answer within 1 s (3 times))"
    )


def test_an_error_without_steps() -> None:
    """Only the reason."""
    assert str(ResolveError("the resolver returned no endpoints")) == "the resolver returned no endpoints"
