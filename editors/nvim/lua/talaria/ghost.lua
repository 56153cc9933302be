--- Grey text at the cursor: what is shown, and what becomes of it as somebody types.
---
--- From 0.12 on, `vim.lsp.inline_completion` asks and draws. It goes on showing what the text
--- contradicts, and accepting doubles what was typed since it asked (neovim#36529). So what it
--- asks goes through `ask` here, and it is handed only what fits behind the cursor, anew after
--- each key. Older versions have none: then this module listens to keys and draws by itself.
local server = require("talaria.server")

local api = vim.api
local M = {}

local METHOD = "textDocument/inlineCompletion"
local INVOKED, AUTOMATIC = 1, 2
local PAUSE = 40 -- milliseconds without a key before the server is asked; it waits by itself too
local namespace = api.nvim_create_namespace("talaria.ghost")

---Where the cursor was when the server was asked; all columns are in bytes.
---@class talaria.Place
---@field row integer
---@field col integer
---@field before string the line up to there
---@field after string the line from there on
---@field lines integer of the buffer

---@class talaria.Suggestions: talaria.Place
---@field items { text: string, command?: lsp.Command }[] from that place on
---@field index integer of the one that is shown
---@field invoked boolean whether all there are were asked for
---@field rest? string what is left of the one that is shown

---@class talaria.Buffer
---@field client vim.lsp.Client
---@field wanted fun(): boolean whether suggestions shall come by themselves
---@field shown? talaria.Suggestions
---@field keys integer how many there were
---@field asked? integer the request under way
---@field sending? boolean whether it is just being sent
---@field push? fun(items: lsp.InlineCompletionItem[]) has Neovim draw these

---@type table<integer, talaria.Buffer?>
local buffers = {}

---@param buf integer
---@return talaria.Place
local function place_of(buf)
  local row, col = unpack(api.nvim_win_get_cursor(0))
  local line = api.nvim_get_current_line()
  local before, after = line:sub(1, col), line:sub(col + 1)
  local lines = api.nvim_buf_line_count(buf)
  return { row = row - 1, col = col, before = before, after = after, lines = lines }
end

---What was typed between two places; nil where anything else was changed.
---@param from talaria.Place
---@param to talaria.Place
---@param buf integer
---@return string?
local function typed(from, to, buf)
  local added = to.row - from.row
  if added < 0 or to.lines - from.lines ~= added or to.after ~= from.after then return nil end
  local text = api.nvim_buf_get_text(buf, from.row, 0, to.row, to.col, {})
  if not vim.startswith(text[1], from.before) then return nil end
  text[1] = text[1]:sub(from.col + 1)
  return table.concat(text, "\n")
end

---@param buf integer
---@param here talaria.Place
---@param text string
local function draw(buf, here, text)
  local lines = {} ---@type [string, string][][]
  for line in vim.gsplit(text, "\n", { plain = true }) do
    lines[#lines + 1] = { { line, "TalariaGhost" } }
  end
  api.nvim_buf_set_extmark(buf, namespace, here.row, here.col, {
    virt_text = lines[1],
    virt_text_pos = "inline",
    virt_lines = #lines > 1 and vim.list_slice(lines, 2) or nil,
    hl_mode = "combine",
  })
end

---Forget what is shown.
---@param buf integer
function M.clear(buf)
  local state = buffers[buf]
  if state and state.shown then
    state.shown = nil
    if state.push then state.push({}) end
  end
  api.nvim_buf_clear_namespace(buf, namespace, 0, -1)
end

---Show what fits behind the cursor now; false if nothing does.
---@param buf integer
---@return boolean
function M.refresh(buf)
  local state = buffers[buf]
  local shown = state and state.shown
  if not (state and shown) then return false end
  local here = place_of(buf)
  local since = typed(shown, here, buf)
  local found ---@type integer?
  for turn = 0, since and #shown.items - 1 or -1 do
    local index = (shown.index - 1 + turn) % #shown.items + 1
    local text = shown.items[index].text
    if not found and #text > #since and vim.startswith(text, since) then found = index end
  end
  if not found then
    M.clear(buf)
    return false
  end
  shown.index, shown.rest = found, shown.items[found].text:sub(#since + 1)
  local position = vim.lsp.util.make_position_params(0, state.client.offset_encoding).position
  local item = {
    insertText = shown.rest,
    range = { start = position, ["end"] = position },
    command = shown.items[found].command,
  }
  api.nvim_buf_clear_namespace(buf, namespace, 0, -1)
  if state.push then
    state.push({ item })
  else
    draw(buf, here, shown.rest)
  end
  -- It takes nothing where somebody switched it off.
  return state.shown ~= nil
end

---The texts of an answer, with lines that end as Neovim's do.
---@param result? lsp.InlineCompletionItem[]|lsp.InlineCompletionList
local function read(result)
  local items = {} ---@type { text: string, command?: lsp.Command }[]
  for _, item in ipairs(result and (result.items or result) or {}) do
    if type(item.insertText) == "string" then
      items[#items + 1] = { text = item.insertText:gsub("\r\n", "\n"), command = item.command }
    end
  end
  return items
end

---Ask what may stand at the cursor; an older question is withdrawn.
---@param buf integer
---@param kind lsp.InlineCompletionTriggerKind
---@param answered? fun(shown: talaria.Suggestions)
---@return boolean, integer? as `vim.lsp.Client:request`
local function ask(buf, kind, answered)
  local state = buffers[buf]
  if not state or buf ~= api.nvim_get_current_buf() then return false end
  if kind == AUTOMATIC and (not state.wanted() or M.refresh(buf)) then return false end
  if state.asked then server.call(state.client, "cancel_request", state.asked) end
  local here, number = place_of(buf), nil ---@type talaria.Place, integer?
  local params = vim.lsp.util.make_position_params(0, state.client.offset_encoding)
  ---@cast params lsp.InlineCompletionParams
  params.context = { triggerKind = kind }
  local function handler(err, result)
    if buffers[buf] ~= state or state.asked ~= number then return end
    state.asked = nil
    local items = read(not err and result or nil)
    local inserting = vim.startswith(api.nvim_get_mode().mode, "i")
    if #items == 0 or not inserting or buf ~= api.nvim_get_current_buf() then return end
    state.shown = vim.tbl_extend("error", here, {
      items = items,
      index = 1,
      invoked = kind == INVOKED,
    })
    if M.refresh(buf) and answered then answered(state.shown) end
  end
  local sent
  state.sending = true
  sent, number = server.call(state.client, "request", METHOD, params, handler, buf)
  state.sending, state.asked = false, number
  return sent, number
end

---Put a text at the cursor, in an undo step of its own.
---@param buf integer
---@param text string
local function insert(buf, text)
  local row, col = unpack(api.nvim_win_get_cursor(0))
  local lines = vim.split(text, "\n", { plain = true })
  vim.bo[buf].undolevels = vim.bo[buf].undolevels -- setting it ends the undo step so far
  api.nvim_buf_set_text(buf, row - 1, col, row - 1, col, lines)
  local last = #lines[#lines]
  api.nvim_win_set_cursor(0, { row + #lines - 1, #lines == 1 and col + last or last })
end

---The first word or line of a text, as the server cuts them.
---@param text string
---@param part? "word"|"line"
---@return string
function M.first(text, part)
  if part == "word" then
    return text:match("^%s*[%w_\128-\255]+[ \t]*")
      or text:match("^%s*[^%w_%s\128-\255]+[ \t]*")
      or text
  end
  return part == "line" and text:match("^%s*[^\n]*\n?") or text
end

---Accept what is shown, or its first word or line; false if nothing is.
---@param part? "word"|"line"
---@return boolean
function M.accept(part)
  local buf = api.nvim_get_current_buf()
  if not M.refresh(buf) then return false end
  local state = buffers[buf] --[[@as talaria.Buffer]]
  local shown = state.shown --[[@as talaria.Suggestions]]
  local text, command = M.first(shown.rest, part), shown.items[shown.index].command
  local all = text == shown.rest
  insert(buf, text)
  M.refresh(buf)
  if all and command then server.execute(state.client, "accepted", command.arguments) end
  return true
end

---Show the next suggestion, or the one before; the server is asked for all there are.
---@param step integer 1 or -1
---@return boolean
function M.cycle(step)
  local buf = api.nvim_get_current_buf()
  if not M.refresh(buf) then return false end
  local shown = buffers[buf].shown --[[@as talaria.Suggestions]]
  local rest = shown.rest
  ---@param all talaria.Suggestions
  local function turn(all)
    all.index = (all.index - 1 + step) % #all.items + 1
    M.refresh(buf)
    local here, count = place_of(buf), ("  %d/%d"):format(all.index, #all.items)
    local hint = { virt_text = { { count, "TalariaMask" } }, virt_text_pos = "eol" }
    api.nvim_buf_set_extmark(buf, namespace, here.row, here.col, hint)
  end
  if shown.invoked then
    turn(shown)
  else
    ask(buf, INVOKED, function(all)
      if all.rest == rest then turn(all) end
    end)
  end
  return true
end

---Ask for suggestions, also where none would come by themselves.
function M.suggest() ask(api.nvim_get_current_buf(), INVOKED) end

---The user does not want what is shown; false if nothing is.
---@return boolean
function M.dismiss()
  local buf = api.nvim_get_current_buf()
  if not M.refresh(buf) then return false end
  M.clear(buf)
  local params = { uri = vim.uri_from_bufnr(buf) }
  server.call(buffers[buf].client, "notify", "talaria/didDismiss", params)
  return true
end

---Have Neovim's own inline completion ask and draw through this module.
---@param client vim.lsp.Client
function M.lead_native(client)
  local request = client.request
  ---@diagnostic disable-next-line: duplicate-set-field
  client.request = function(self, method, params, handler, buf)
    local state = method == METHOD and buf and buffers[buf]
    -- What `ask` sends comes here too, with a handler of its own.
    if not state or state.sending then return request(self, method, params, handler, buf) end
    state.push = function(items)
      local context = { client_id = client.id, bufnr = buf, method = METHOD }
      local attached = vim.lsp.buf_is_attached(buf, client.id)
      if not attached or not pcall(handler, nil, { items = items }, context) then
        state.push, state.shown = nil, nil
      end
    end
    return ask(buf, params.context.triggerKind)
  end
end

---Look after a buffer: what is shown follows each key.
---@param client vim.lsp.Client
---@param buf integer
---@param native boolean whether Neovim asks by itself
---@param wanted fun(): boolean whether suggestions shall come by themselves
function M.attach(client, buf, native, wanted)
  local state = { client = client, wanted = wanted, keys = 0 } ---@type talaria.Buffer
  buffers[buf] = state
  server.follow(client, buf)
  if native then vim.lsp.inline_completion.enable(true, { bufnr = buf }) end
  local group = api.nvim_create_augroup("talaria.ghost:" .. buf, {})
  local function on(events, callback)
    api.nvim_create_autocmd(events, { group = group, buffer = buf, callback = callback })
  end
  on({ "InsertEnter", "CursorMovedI", "TextChangedI", "TextChangedP" }, function()
    state.keys = state.keys + 1
    if M.refresh(buf) or native then return end
    local key = state.keys
    vim.defer_fn(function()
      if buffers[buf] == state and state.keys == key then ask(buf, AUTOMATIC) end
    end, PAUSE)
  end)
  on("InsertLeave", function()
    state.keys = state.keys + 1
    M.clear(buf)
  end)
end

---Leave a buffer alone.
---@param buf integer
---@param client_id integer
function M.detach(buf, client_id)
  if buffers[buf] and buffers[buf].client.id == client_id then
    M.clear(buf)
    buffers[buf] = nil
    server.left(buf)
    api.nvim_del_augroup_by_name("talaria.ghost:" .. buf)
  end
end

return M
