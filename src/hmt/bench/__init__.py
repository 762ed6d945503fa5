"""`hmt bench`: speed and memory of every system beside full attention, measured in one run.

    from hmt.bench.run import run
    from hmt.bench.settings import Settings

    results = run(Settings(shape="tiny", lengths=(1024, 2048), segment_length=128))

`settings` says what is measured, `readers` gives every system and full attention the same face, `reading`,
`decoding`, `training` and `peaks` are the parts, `timing` runs their cases in turns, `flops` is the
arithmetic, `results` turns raw times into numbers, `show` and `plots` into tables and a figure.
"""
