"""The SQL database: tables, batched write commands, queries, migrations."""
