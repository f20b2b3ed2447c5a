#include <iostream>

#include <CLI/CLI.hpp>

#include "program/demo.hpp"
#include "program/evaluate.hpp"
#include "program/intents.hpp"
#include "program/recommend.hpp"
#include "program/train.hpp"

int main(int argc, char** argv) {
  const char* description = "Intent-aware sequential recommendation: trains ELCRec, evaluates it, recommends with it.";
  return program::run_program("elcrec", description, [&](CLI::App& app) {
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
    app.parse(argc, argv);
    elcrec::require<elcrec::FileError>(std::cout.flush().good(), "standard output: could not be written");
    return 0;
  });
}
