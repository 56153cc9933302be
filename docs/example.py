"""An unfinished bank account: the commands of the README fill it in."""


class Account:
    """A customer's account."""

    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        """Add an amount to the balance."""
        if amount < 0:
            raise ValueError
        self.balance += amount

    def current_balance(self):
        """Return the current balance."""
        raise NotImplementedError
