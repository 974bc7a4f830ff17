"""What is proved of `Affine` for all inputs, rather than tried on some."""

import pytest

from systolith_rtl.vector.affine import Affine, AffineConfig
from systolith_sim.formal import HandshakeProperty
from systolith_sim.yosys import prove

pytestmark = pytest.mark.synth


def test_output_keeps_the_handshake() -> None:
    prove(HandshakeProperty(Affine(AffineConfig())))
