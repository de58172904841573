//! `overspill completions` and `overspill man`: what shells and `man` read, made from the arguments themselves.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Arguments, CompletionsArguments, ManArguments, words};

type BoxError = Box<dyn std::error::Error>;

/// Prints the completions for a shell.
pub(super) fn completions(arguments: &CompletionsArguments) -> Result<(), BoxError> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "overspill", &mut script);
    Ok(words::print(&String::from_utf8(script)?)?)
}

/// Prints one page with all commands, or writes a page for each into a folder.
pub(super) fn man(arguments: &ManArguments) -> Result<(), BoxError> {
    match &arguments.out {
        Some(folder) => write(folder),
        None => Ok(words::print(&page()?)?),
    }
}

fn write(folder: &Path) -> Result<(), BoxError> {
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command(), folder))
        .map_err(|error| format!("{}: {error}", folder.display()).into())
}

/// Without `help`, whose pages would be as many again.
fn command() -> Command {
    Arguments::command().disable_help_subcommand(true)
}

fn page() -> io::Result<String> {
    let mut command = command();
    // Gives each command its full name.
    command.build();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for command in command.get_subcommands() {
        let name = command.get_name().to_uppercase();
        writeln!(page, ".SH \"OVERSPILL {name}\"")?;
        page.write_all(below(command)?.as_bytes())?;
    }
    man.render_extra_section(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// A command's own page, a storey lower.
fn below(command: &Command) -> io::Result<String> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_after_help().is_some() {
        man.render_extra_section(&mut page)?;
    }
    let page = String::from_utf8_lossy(&page);
    Ok(page.replace(".SH ", ".SS "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_the_one_page() {
        let page = page().unwrap();
        for command in command().get_subcommands() {
            let name = command.get_name().to_uppercase();
            assert!(page.contains(&format!("OVERSPILL {name}")), "{name}");
        }
    }
}
