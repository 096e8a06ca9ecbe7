"""What a study found: intervals and verdicts, tables, texts and figures."""
