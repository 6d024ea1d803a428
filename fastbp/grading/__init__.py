"""Grading of submissions: student code runs in a child process, the references and every comparison stay in the parent."""
