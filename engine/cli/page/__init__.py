"""The page that ``lading timeline --html`` writes: its template, style and scripts, and what fills them."""
