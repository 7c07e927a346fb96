"""The parts that teach: predictions, quizzes, exercises and knobs. Their content is data, in `content/`."""

from helpers.study.exercises import check
from helpers.study.knobs import knob
from helpers.study.predictions import guess, predict
from helpers.study.quizzes import quiz
from helpers.study.stepper import stepper

__all__ = ["check", "guess", "knob", "predict", "quiz", "stepper"]
