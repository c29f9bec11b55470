//! Reads a package's licence expression (SPDX, annex "licence expressions") and says
//! whether a list of licences allows it.

/// Whether the licences in `allowed` satisfy `expression`.
///
/// # Errors
/// When it is not an expression.
pub(super) fn satisfied(expression: &str, allowed: &[String]) -> Result<bool, String> {
    // Cargo's older way to write OR.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader {
        words: &words,
        allowed,
    };
    let answer = reader.any()?;
    match reader.words.first() {
        None => Ok(answer),
        Some(word) => Err(format!("`{word}` is not expected in `{expression}`")),
    }
}

struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl Reader<'_> {
    fn take(&mut self, word: &str) -> bool {
        let taken = self.words.first() == Some(&word);
        if taken {
            self.words = &self.words[1..];
        }
        taken
    }

    fn next(&mut self) -> Result<String, String> {
        let (word, rest) = self.words.split_first().ok_or("ends too early")?;
        self.words = rest;
        Ok((*word).to_owned())
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut answer = self.all()?;
        while self.take("OR") {
            answer |= self.all()?;
        }
        Ok(answer)
    }

    /// AND binds tighter than OR.
    fn all(&mut self) -> Result<bool, String> {
        let mut answer = self.one()?;
        while self.take("AND") {
            answer &= self.one()?;
        }
        Ok(answer)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.take("(") {
            let answer = self.any()?;
            return if self.take(")") {
                Ok(answer)
            } else {
                Err("a `)` is missing".to_owned())
            };
        }
        let mut licence = self.next()?;
        if matches!(licence.as_str(), "AND" | "OR" | "WITH" | ")") {
            return Err(format!("`{licence}` stands where a licence should"));
        }
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.next()?);
        }
        Ok(self.allowed.contains(&licence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_weighed() {
        let allowed = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"];
        let allowed = allowed.map(str::to_owned);
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("GPL-3.0-only/MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("MIT AND Zlib", true),
            ("Apache-2.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("(MIT OR GPL-3.0-only) AND BSL-1.0", false),
            ("(MIT OR GPL-3.0-only) AND Zlib", true),
            ("GPL-3.0-only OR MIT AND BSL-1.0", false),
            ("MIT OR GPL-3.0-only AND BSL-1.0", true),
        ] {
            assert_eq!(
                satisfied(expression, &allowed),
                Ok(expected),
                "{expression}"
            );
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for expression in ["", "MIT OR", "(MIT", "MIT Zlib", "AND MIT", "MIT WITH"] {
            assert!(satisfied(expression, &[]).is_err(), "{expression}");
        }
    }
}
