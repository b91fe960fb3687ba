"""What every job does around its work: run folders, tables, devices, exit codes."""
