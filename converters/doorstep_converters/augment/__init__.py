"""More texts from the texts at hand: named, seeded transforms, a filter behind them, a report of what each brings."""
