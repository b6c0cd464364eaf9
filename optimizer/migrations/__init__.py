"""The steps that bring a database from any earlier schema to the one in `optimizer.tables`.

To add a step, change `optimizer.tables`, then run in the checkout, on a scratch database that is up to date:

    from alembic import command
    from optimizer import database, schema

    with database.writing(database.open_database("scratch.db")) as connection:
        command.revision(schema.alembic_config(connection), "what changes", autogenerate=True, rev_id="0002")

Read and mend what it wrote, and raise `optimizer.schema.HEAD`. A step is never edited once it is released.
"""
