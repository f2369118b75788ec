"""Who answers, and how the turns of a dialogue follow each other."""
