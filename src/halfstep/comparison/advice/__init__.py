"""From a comparison to a recommendation: evidence, rules, claims, and the lines to adopt."""
