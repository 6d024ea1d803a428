"""A graph as a figure, and as DOT text."""
def draw(node): pass
def dot(node): pass
