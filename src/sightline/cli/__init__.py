"""The verbs of the `sightline` command. Nothing heavy is imported before the arguments of a verb are parsed."""
