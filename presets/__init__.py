"""Presets, profiles and their compilation into FFmpeg invocations.

Everything here is pure: no files but the shipped library, no processes, no clock. A caller's request becomes an
:class:`presets.intent.Intent`, media become :class:`presets.facts.MediaFacts`, and :func:`presets.compile.compile`
turns both into a :class:`presets.plan.Plan`, which is refined as measurements arrive.
"""
