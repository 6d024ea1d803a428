"""The trials of soak.py, by what they try: see KINDS in its kinds.py."""
