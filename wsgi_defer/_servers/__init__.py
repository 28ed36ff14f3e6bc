"""What is known of each server, one file each. ``server.py`` says how to add one."""
