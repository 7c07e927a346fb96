"""The runnable half of the notebooks: experiments that measure, figures that draw, and what keeps both honest.

Importing this package imports nothing else. Ask for the module that you need:
`from helpers.experiments import start_here`.
"""
