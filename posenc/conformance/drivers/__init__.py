"""How each column is called: positions become its arrays, and its arrays bytes. One driver a framework."""
