//! The rules: names, descriptions, pages.

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// As in `skip=`.
    pub name: &'static str,
    /// What it is about.
    pub description: &'static str,
    /// It counts only where it is asked for.
    pub experimental: bool,
}

impl Rule {
    /// The page of docker's documentation about it.
    pub fn url(&self) -> String {
        let letters: Vec<char> = self.name.chars().collect();
        let mut slug = String::new();
        for (at, c) in letters.iter().enumerate() {
            let before = at.checked_sub(1).map(|b| letters[b]);
            let lower_next = letters.get(at + 1).is_some_and(char::is_ascii_lowercase);
            // `JSONArgs` is `json-args`.
            let begins = c.is_ascii_uppercase()
                && before.is_some_and(|b| b.is_ascii_lowercase() || lower_next);
            if begins {
                slug.push('-');
            }
            slug.push(c.to_ascii_lowercase());
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{slug}/")
    }
}

/// `StageNameCasing`
pub static STAGE_NAME_CASING: Rule = Rule {
    name: "StageNameCasing",
    description: "Stage names should be lowercase",
    experimental: false,
};

/// `FromAsCasing`
pub static FROM_AS_CASING: Rule = Rule {
    name: "FromAsCasing",
    description: "The 'as' keyword should match the case of the 'from' keyword",
    experimental: false,
};

/// `NoEmptyContinuation`
pub static NO_EMPTY_CONTINUATION: Rule = Rule {
    name: "NoEmptyContinuation",
    description: "Empty continuation lines will become errors in a future release",
    experimental: false,
};

/// `ConsistentInstructionCasing`
pub static CONSISTENT_INSTRUCTION_CASING: Rule = Rule {
    name: "ConsistentInstructionCasing",
    description: "All commands within the Dockerfile should use the same casing (either upper or lower)",
    experimental: false,
};

/// `DuplicateStageName`
pub static DUPLICATE_STAGE_NAME: Rule = Rule {
    name: "DuplicateStageName",
    description: "Stage names should be unique",
    experimental: false,
};

/// `ReservedStageName`
pub static RESERVED_STAGE_NAME: Rule = Rule {
    name: "ReservedStageName",
    description: "Reserved words should not be used as stage names",
    experimental: false,
};

/// `JSONArgsRecommended`
pub static JSON_ARGS_RECOMMENDED: Rule = Rule {
    name: "JSONArgsRecommended",
    description: "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    experimental: false,
};

/// `MaintainerDeprecated`
pub static MAINTAINER_DEPRECATED: Rule = Rule {
    name: "MaintainerDeprecated",
    description: "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    experimental: false,
};

/// `UndefinedArgInFrom`
pub static UNDEFINED_ARG_IN_FROM: Rule = Rule {
    name: "UndefinedArgInFrom",
    description: "FROM command must use declared ARGs",
    experimental: false,
};

/// `WorkdirRelativePath`
pub static WORKDIR_RELATIVE_PATH: Rule = Rule {
    name: "WorkdirRelativePath",
    description: "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    experimental: false,
};

/// `UndefinedVar`
pub static UNDEFINED_VAR: Rule = Rule {
    name: "UndefinedVar",
    description: "Variables should be defined before their use",
    experimental: false,
};

/// `MultipleInstructionsDisallowed`
pub static MULTIPLE_INSTRUCTIONS_DISALLOWED: Rule = Rule {
    name: "MultipleInstructionsDisallowed",
    description: "Multiple instructions of the same type should not be used in the same stage",
    experimental: false,
};

/// `LegacyKeyValueFormat`
pub static LEGACY_KEY_VALUE_FORMAT: Rule = Rule {
    name: "LegacyKeyValueFormat",
    description: "Legacy key/value format with whitespace separator should not be used",
    experimental: false,
};

/// `RedundantTargetPlatform`
pub static REDUNDANT_TARGET_PLATFORM: Rule = Rule {
    name: "RedundantTargetPlatform",
    description: "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    experimental: false,
};

/// `SecretsUsedInArgOrEnv`
pub static SECRETS_USED_IN_ARG_OR_ENV: Rule = Rule {
    name: "SecretsUsedInArgOrEnv",
    description: "Sensitive data should not be used in the ARG or ENV commands",
    experimental: false,
};

/// `InvalidDefaultArgInFrom`
pub static INVALID_DEFAULT_ARG_IN_FROM: Rule = Rule {
    name: "InvalidDefaultArgInFrom",
    description: "Default value for global ARG results in an empty or invalid base image name",
    experimental: false,
};

/// `FromPlatformFlagConstDisallowed`
pub static FROM_PLATFORM_FLAG_CONST_DISALLOWED: Rule = Rule {
    name: "FromPlatformFlagConstDisallowed",
    description: "FROM --platform flag should not use a constant value",
    experimental: false,
};

/// `CopyIgnoredFile`
pub static COPY_IGNORED_FILE: Rule = Rule {
    name: "CopyIgnoredFile",
    description: "Attempting to Copy file that is excluded by .dockerignore",
    experimental: true,
};

/// `InvalidDefinitionDescription`
pub static INVALID_DEFINITION_DESCRIPTION: Rule = Rule {
    name: "InvalidDefinitionDescription",
    description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    experimental: true,
};

/// `ExposeProtoCasing`
pub static EXPOSE_PROTO_CASING: Rule = Rule {
    name: "ExposeProtoCasing",
    description: "Protocol in EXPOSE instruction should be lowercase",
    experimental: false,
};

/// `ExposeInvalidFormat`
pub static EXPOSE_INVALID_FORMAT: Rule = Rule {
    name: "ExposeInvalidFormat",
    description: "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    experimental: false,
};
