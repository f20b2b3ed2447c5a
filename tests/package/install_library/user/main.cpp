double draw();

int main() { return draw() >= 0 ? 0 : 1; }
