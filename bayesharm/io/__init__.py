"""Reading and writing of tables and arrays in the user's formats."""
