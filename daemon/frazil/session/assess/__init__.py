"""Assessing: the quality of each micrograph, after its picks and beside the pipeline, which it never holds up."""

from frazil.session.assess.assessor import Assessed, Assessor, Offer
from frazil.session.assess.squares import SessionSquares, SquareWriter
from frazil.session.assess.writer import QualityWriter

__all__ = ["Assessed", "Assessor", "Offer", "QualityWriter", "SessionSquares", "SquareWriter"]
