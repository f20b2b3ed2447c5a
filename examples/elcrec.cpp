#include <exception>
#include <iostream>

#include <CLI/CLI.hpp>

#include "program/demo.hpp"
#include "program/evaluate.hpp"
#include "program/intents.hpp"
#include "program/recommend.hpp"
#include "program/train.hpp"

int main(int argc, char** argv) {
  CLI::App app("Intent-aware sequential recommendation: trains ELCRec, evaluates it, recommends with it.");
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  elcrec demo\n"
      "  elcrec train --data clicks.txt --out clicks.safetensors\n"
      "  elcrec evaluate --data clicks.txt --checkpoint clicks.safetensors\n"
      "  elcrec recommend --checkpoint clicks.safetensors --history \"12 7 301\"\n"
      "  elcrec intents --checkpoint clicks.safetensors --data clicks.txt\n"
      "Exit code: 0; 1 for bad input (one line on standard error says what); 2 for wrong usage.");
  program::Train train(app);
  program::Evaluate evaluate(app);
  program::Recommend recommend(app);
  program::Intents intents(app);
  program::Demo demo(app);
  try {
    app.parse(argc, argv);
    elcrec::require<elcrec::FileError>(std::cout.flush().good(), "standard output: could not be written");
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::cerr << "elcrec: " << error.what() << '\n';
    return 1;
  }
}
