"""Reading what storage returns, which is not trusted: JSON, typed records, Parquet."""
