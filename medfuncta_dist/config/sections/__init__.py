"""The sections of the run file, one file each: their keys, types, defaults, and the rules within a section."""
