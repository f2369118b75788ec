"""stub"""
class RuleRater:
    name="rules"
