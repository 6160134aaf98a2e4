"""Models for other software: written in its form, loaded there without this package, and asked the golden requests again before anything is handed over."""
