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
    let mut command = command();
    command.build();
    let pages = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        write_page(folder, &command)?;
        let mut commands = command.get_subcommands();
        commands.try_for_each(|command| write_page(folder, command))
    };
    pages().map_err(|error| format!("{}: {error}", folder.display()).into())
}

fn write_page(folder: &Path, command: &Command) -> io::Result<()> {
    let man = Man::new(command.clone());
    let page = with_head(&man, |page| {
        sections(&man, command, page)?;
        if command.has_subcommands() {
            man.render_subcommands_section(page)?;
        }
        Ok(())
    })?;
    fs::write(folder.join(man.get_filename()), page)
}

/// Without `help`, whose pages would be as many again.
fn command() -> Command {
    Arguments::command().disable_help_subcommand(true)
}

/// One page with every command.
fn page() -> io::Result<String> {
    let mut command = command();
    // Gives each command its full name.
    command.build();
    let man = Man::new(command.clone());
    with_head(&man, |page| {
        sections(&man, &command, page)?;
        for command in command.get_subcommands() {
            let name = command.get_name().to_uppercase();
            writeln!(page, ".SH \"OVERSPILL {name}\"")?;
            let mut below = Vec::new();
            sections(&Man::new(command.clone()), command, &mut below)?;
            // A storey lower.
            page.extend(
                String::from_utf8_lossy(&below)
                    .replace(".SH ", ".SS ")
                    .bytes(),
            );
        }
        man.render_version_section(page)
    })
}

/// The title and the name; then what `body` writes. No option is broken in the middle.
fn with_head(man: &Man, body: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<String> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    page.extend(b".nh\n.ad l\n");
    man.render_name_section(&mut page)?;
    body(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn sections(man: &Man, command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.get_after_help().is_none() {
        return Ok(());
    }
    let mut examples = Vec::new();
    man.render_extra_section(&mut examples)?;
    // Commands stand as they are typed.
    let examples = String::from_utf8_lossy(&examples)
        .replace(".SH EXTRA\n", ".SH EXAMPLES\n.nf\n")
        .replace(".nf\nExamples:\n", ".nf\n");
    writeln!(page, "{}\n.fi", examples.trim_end())
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
