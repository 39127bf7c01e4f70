"""Every command of fgvc, by name: the module that has it, which is imported only when it is called."""

JOBS = {  # a config and run(config)
    "classify": "jobs.classify",
    "evaluate": "jobs.evaluate",
    "detect": "jobs.detect",
    "crop": "jobs.crop",
}
COMMANDS = {  # their own words, by main(words)
    "shards": "jobs.shards",
    "compare": "jobs.compare",
    "sweep": "jobs.sweep",
    "doctor": "jobs.doctor",
    "cluster": "jobs.cluster",
    "status": "jobs.status",
    "cancel": "jobs.cancel",
}
