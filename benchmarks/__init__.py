"""How fast the trainers are, how much memory they take, and what that is measured against."""
