"""What benchmarks and their tests share; nothing here runs by itself. Each module's docstring says what it is for."""
