"""How a run and its jobs are: records, facts, judgement, text."""
