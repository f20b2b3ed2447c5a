#include <elcrec/train.hpp>

void train(const char* path) {
  const auto split = elcrec::leave_one_out(elcrec::make_synthetic({.users = 60, .items = 80}).data);
  elcrec::ELCRec<elcrec::Cpu> model({.items = split.item_count(), .max_length = 8, .hidden = 16, .intents = 4});
  elcrec::Trainer(model, elcrec::Adam{}, {.epochs = 1, .checkpoint = path}).fit(split);
}
