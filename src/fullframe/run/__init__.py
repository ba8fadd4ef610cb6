"""Run entry code on an emulated CPU and hold it to a specification.

Start at :func:`fullframe.run.session.run_scenarios`, which takes a
:class:`fullframe.run.subject.Subject` and scenarios from :mod:`fullframe.run.draw`.
"""
